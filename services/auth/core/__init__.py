"""What auth decides, without a clock, a socket or a log.

encoding   nkeys, JWTs and xkey boxes of NATS, bytes in and out
callout    the server's question → what it says; the answer → bytes
identity   what the API server or a token says → who that is; who that is → may it be called this
offline    a token and the cluster's public keys → what the token says, checked
rights     who that is → what it may publish and subscribe
layout     accounts, exports and imports: the server's configuration
"""
