"""A task: how many boxes an image has, by regression. Import this file, and every verb knows `task: count`."""

import torch

from medvl.config import as_read
from medvl.core.learner import Learner
from medvl.core.task import Prepared, Task, register
from medvl.data.dataset import SegmentDataset, epoch_loader
from medvl.data.text_input import TextInput
from medvl.evaluation.request import score_records
from medvl.inference.batch import RowFiles
from medvl.inference.predictor import ImagePredictor
from medvl.models.classifier import ImageClassifier
from medvl.models.module import ImageModule
from medvl.models.registry import image_network_options


class CountLearner(Learner):
    def __init__(self, module, counts):
        self.module, self.counts, self.text = module, counts, TextInput()

    def training_step(self, batch, module=None):
        true = torch.tensor([self.counts[name] for name in batch.ids], device=batch.image.device)  # (N,)
        return {"loss": ((module or self.module)(batch.image)[batch.image_index, 0] - true).square().mean()}


class CountTask(Task):
    name, model_name, takes_text, needs_labels = "count", "counter", False, False
    load = staticmethod(ImagePredictor.load)
    defaults = {"text.encoder": "none", "model.encoder": "resnet18_nano"}  # noqa: RUF012

    def build(self, config, num_classes, encoder, context):
        return ImageModule(ImageClassifier(**image_network_options(ImageClassifier, config, 1)))

    def prepare(self, config, manifest, splits, context, fabric, out):
        torch.manual_seed(config.train.seed)
        counts = {row.id: float(len(row.boxes)) for rows in splits.values() for row in rows}
        loaders = {}
        for name, rows in splits.items():
            data = SegmentDataset(rows, (), as_read(config), seed=config.train.seed, train=name == "train")
            loaders[name] = epoch_loader(data, config, fabric, train=name == "train")
        return Prepared(CountLearner(self.build(config, 1, None, None), counts), None, (), splits, loaders)

    def answerer(self, model, images, out, question):
        question.takes("a counter")
        predictor = self.load(model, question.device)
        return RowFiles(["count"], lambda image: {"count": predictor.outputs(image)[0].item()}, predictor.config, out)

    def evaluate(self, request):
        predictor = self.load(request.source, request.device)

        def case(row):
            true, predicted = len(row.boxes), predictor.outputs(row.image)[0].item()
            return {"true": true, "predicted": predicted, "error": abs(predicted - true)}

        return score_records(request, self.name, predictor.config, case, metrics=["error"])


register(CountTask())
