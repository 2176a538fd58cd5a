"""What is measured of a trained model, whichever map it computes."""
