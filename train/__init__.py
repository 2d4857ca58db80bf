"""Training, evaluation and their report. `chimney train --help` explains the command."""

from dali_pipes.errors import refuse_hidden_packages

refuse_hidden_packages("model")
