"""Comparing the models: one workload and all experiments on each, and a table whose every cell names its run.

`plan` says what is to be run, `measure` and `meter` run the workload, `runner` runs it all, `columns` makes the
table, `results` keeps the files, `report` draws the page.
"""
