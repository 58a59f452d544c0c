"""Pure decisions: (state, request) -> Granted | Refused. No clock, no I/O, no log.

`ranges` knows free space, `pools` addresses of one endpoint, `choosing` which endpoints are candidates,
`deciding` puts them together.
"""
