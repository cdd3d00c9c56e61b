"""Why a network says what it says of an image: Grad-CAM after stages and levels, gates, what is on the person."""
