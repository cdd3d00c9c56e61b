"""From a network to scores: features of images, and the retrieval protocol on them."""
