"""Webhook, optional: a Pod that asks for network services is not Ready before it has them.

owns      the readiness gate of annotated Pods that do not name it themselves; the Secret nsm-webhook-tls;
          `caBundle` in its MutatingWebhookConfiguration
reads     AdmissionReviews of Pods that are made; those two objects
writes    answers, those two objects
promises  - nobody is ever denied: what is malformed is let through, with a warning that names column and remedy
          - a Pod gets the gate once, and nothing else of it is touched
          - certificates need no hand: replicas make them together, and renew them before anybody notices;
            an authority is trusted for weeks before it issues what is served
          - away, slow or broken, it costs a Pod two seconds at most, and its gate
"""
