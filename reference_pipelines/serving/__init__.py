"""What a trained network is for once it is trained: features of images, and of whole galleries of them."""
