"""One file per processing module: each is found by its file name, none is listed anywhere."""
if __name__ != "flowos.modules":    # a second copy would load every module twice
    raise ImportError(f"import flowos.modules, not {__name__}")
