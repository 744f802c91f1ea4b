"""One HTML file that shows what a run learned, what each width gives and what its ladder costs."""
