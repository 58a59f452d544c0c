"""What the watcher decides, without a clock, a socket or a log.

specs       our own kinds as written → what they mean, or what is wrong with them
requests    a Pod and its annotation → what it asks for
prefixes    nodes, Services and ConfigMaps → prefixes in use
limits      what a spec may not hold although it is well written
owners      which object a message comes from
intent      all of it, kept up to date object by object → the messages that must stand on the bus
resolving   grant and resolver → whether a connection's DNS is served
tally       how many endpoint Pods and connections each of our objects has
describing  counts, pool and spec of one of our objects → its status
losing      what neither Kubernetes nor the plumber hears of → whether a Pod's node is lost
report      grants, refusals, statuses and resolver of a Pod → what its status says, and what to announce
"""
