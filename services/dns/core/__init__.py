"""Pure decisions about bytes: no clock, no socket, no log, and no bytes make it raise.

`wire` reads names and records, `queries` what a client asked, `scope` who is asked, `ranking` what an answer
is worth and when enough was heard, `health` whom to wait for, `searching` names below a search domain,
`replies` what the client gets. A cache has its place between `queries` and `scope`.
"""
