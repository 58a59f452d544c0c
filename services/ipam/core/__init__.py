"""Pure decisions: (state, request) -> Granted | Refused. No clock, no I/O, no log.

From the bottom: `blocks` are addresses and prefixes as numbers, `ranges` sets of numbers, `table` prefixes with
who has them. `spaces` and `pool` hold the addresses of one endpoint, `pools` those of all, `automatic` carves
prefixes, `exclusions` and `pod_uses` know what is in use. `ledger` is who has what, `state` adds what the cluster is.
`offering` keeps who offers what in the order of choice, `choosing` picks the candidates, `routing`, `linking` and
`allocating` look at one of them, `deciding` puts them together, `waiting` knows what stands in its way for now,
`refusing` words it, `settling` says what is to be written. `figures` are what pools tell of themselves; `pictures` and
`explaining` answer people.
"""
