"""The pages of docs/reference that the code writes itself: settings, metrics, subjects, objects, reasons.

    python -m tools.reference            write them
    python -m tools.reference --check    exit code 1, naming the page, if one is not what the code says

What a page says of a thing stands beside the thing: the comment of a field, the text of a metric, the docstring of a
message, the description in a CRD. A thing without a text is an error.
"""
