"""
Proves a log with `core` alone: no journal, no network, no key but the pinned public ones.

`source` says what a verifier is shown, `tree` holds entries, tiles and root against each other, `calls` holds entries
against entries, `verifier` puts both under a policy and comes to a verdict, `findings` are its words.
"""
