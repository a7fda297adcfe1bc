"""Where records come from: VOC, COCO, a folder of images, and shapes drawn from a seed."""
