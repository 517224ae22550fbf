"""What the parts for Keras 3 and for legacy Keras share: no framework is imported here."""
