"""What a person sees of a run: figures, tables, plots, the page and the progress display.

Everything here reads run folders (see `fedlearn.records.reading`) and never trains anything.
Libraries for drawing (matplotlib), terminals (rich) and TensorBoard are imported inside the
functions that need them.
"""
