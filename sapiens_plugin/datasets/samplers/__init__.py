"""An order of samples that can be taken up anywhere."""
