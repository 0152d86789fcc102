"""The REST API, version 1. Blueprints by what they serve; all but enrollment and the API's own description need somebody known."""
