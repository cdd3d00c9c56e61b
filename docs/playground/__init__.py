"""The attention playground: a small trained network that runs in a page, and shows its gates as one covers a person.

`python -m docs.playground --out DIR` trains it and writes the page, which then makes no request.
"""
