"""What lies in a model repository, read and checked here and nowhere else.

`repository`: models, versions, configs. `members`: which of them a release consists of.
`records`: `provenance.json`. `engines`: `engine.json`. `parity_runs`: who may serve.
`self_check`: a question with the reference's answer.
"""
