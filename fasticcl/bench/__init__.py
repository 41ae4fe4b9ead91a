"""``fasticcl bench``: how fast plan, loader, step, training and conversion are on this machine.

measure.py    runs, medians, spread; a stopwatch for parts
hardware.py   what it ran on                    images.py    images for who has none at hand
workload.py   configuration, data and machine   result.py    what came out, as tables and as a page
plan.py  loader.py  step.py  train.py  convert.py            one measurement each
advice.py     which part binds and what to change
suite.py      from options to a result          commands.py  the command line
"""
