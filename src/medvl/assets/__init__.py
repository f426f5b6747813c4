"""What ships with medvl: a small real data set, a trained model, the demo's recipe."""
