"""Built-in detector NanoDet-g: the 80 classes of COCO, the server's default."""
