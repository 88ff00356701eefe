"""
Follows the journal and answers questions: which calls were made, by whom, what did they cost, what broke.

`projector` turns entries into rows of `reports.db`, which can be deleted at any time; `questions` computes reports from
the rows, `people` joins names from the vault at read time, `render` shows. Nothing here is evidence: the entries are.
"""
