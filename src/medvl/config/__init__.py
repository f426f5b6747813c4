"""The configuration of a run."""

from medvl.config.config import (
    ASSET_PREFIX,
    G2D_PREFIX,
    WEIGHTS_PREFIX,
    Config,
    DataConfig,
    ModelConfig,
    TextConfig,
    TrainConfig,
    as_read,
    config_dict,
    find_recipe,
    load_config,
    make_config,
    manifest_path,
    recipe_folder,
    recipe_names,
    save_config,
    split_init,
)
from medvl.config.objective import ObjectiveConfig
from medvl.config.sections import ClassifyConfig, PretrainConfig, SemiConfig

__all__ = [
    "ASSET_PREFIX",
    "G2D_PREFIX",
    "WEIGHTS_PREFIX",
    "ClassifyConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "PretrainConfig",
    "SemiConfig",
    "TextConfig",
    "TrainConfig",
    "as_read",
    "config_dict",
    "find_recipe",
    "load_config",
    "make_config",
    "manifest_path",
    "recipe_folder",
    "recipe_names",
    "save_config",
    "split_init",
]
