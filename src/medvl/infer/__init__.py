"""From a trained folder to masks; needs no training code."""
