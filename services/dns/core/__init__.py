"""A query's life, decided: no clock, no socket, no log, and no bytes make it raise.

`resolving` is the state machine of one Pod; `servers` what of a server's packets counts; `flights` one question
on its way; `timers` what time does to them. They rest on pure decisions about bytes: `wire` reads names and
records, `queries` what a client asked, `scope` and `plans` who is asked, `ranking` what an answer is worth,
`health` whom to wait for, `searching` names below a search domain, `replies` what the client gets, `cache` what
is kept of it. `shared` is what all Pods of a node have in common, `outbox` what leaves together, `tally` counts,
`explaining` tells people.

Whoever drives them gives the time, hands over packets, and sends. What runs for every packet is written for
speed: that is where attribute look-ups of enums, small objects and calls are saved.
"""
