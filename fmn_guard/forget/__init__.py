"""The eraser: Forget-Me-Not passes (arXiv 2303.17591), one after another, and the patch they leave."""
