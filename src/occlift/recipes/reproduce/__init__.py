"""A paper's tables by one command: which runs they need, the runs one by one, and the tables from what they left.

`plan` says what a run and a table are, `easyocc` lists those of EasyOcc, `conduct` does the runs that are missing, each
in a process of its own (`execute`), `record` is what a run leaves, `scores` and `render` make tables of it, `document`
puts them into a Markdown file.
"""
