import warnings

__version__ = "0.1.0"
warnings.filterwarnings('ignore', r'`torch\.jit\.script` is deprecated', FutureWarning) # timm and fastai call it when they are imported; a reader can do nothing about it
