"""Whether this machine can train: facts are gathered, judged in ``checks`` and put in order by ``doctor``."""
