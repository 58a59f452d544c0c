"""Pure decisions: (state, request) -> Granted | Refused. No clock, no I/O, no log.

From the bottom: `blocks` are addresses and prefixes as numbers, `ranges` sets of numbers, `table` prefixes with
who has them. `spaces` and `pools` hold the addresses of one endpoint, `pooling` those of all, `automatic` carves
prefixes, `exclusions` and `podding` know what is in use. `ledger` is who has what, `state` adds what the cluster is.
`offering` keeps who offers what in the order of choice, `choosing` picks the candidates, `routing`, `linking` and
`allocating` look at one of them, `deciding` puts them together, `waiting` knows what stands in its way for now,
`refusing` words it, `settling` says what is to be written. `explaining` answers people.
"""
