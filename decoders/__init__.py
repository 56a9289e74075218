"""One file per protocol: each is found by its file name, none is listed anywhere."""
if __name__ != "flowos.decoders":   # a second copy would register every decoder twice
    raise ImportError(f"import flowos.decoders, not {__name__}")
