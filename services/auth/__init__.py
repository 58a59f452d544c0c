"""Auth: says who may do what on the bus, by Kubernetes' own identities.

owns      the seed of the account that signs users of the bus, and nothing else
reads     the server's questions about logins (auth callout), the API server's TokenReview and public keys
writes    answers to those questions
promises  - a user gets the rights of one role, on one node, under one connection name: those that Kubernetes
            confirms, for at most an hour and never longer than its token lives
          - while the API server hangs or is away, tokens are checked with the public keys it gave last
          - every question is answered, within the time that the server waits
          - a token that was refused is asked about anew: only a confirmed one is remembered, for a minute
          - a responder that cannot log in by itself ends, so that the other one gets all questions
          - no token and no seed appears in a log
"""
