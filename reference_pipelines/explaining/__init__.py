"""Why a network says what it says of an image: Grad-CAM after stages and levels, gates, and how much is on the person."""
