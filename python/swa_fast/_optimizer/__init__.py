"""The SWA optimizer of Keras, whichever Keras: no framework is imported here, each is passed in."""
