"""Validates an OpenAPI document (file named by the first argument) and prints its version and operations, as JSON."""
import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1]) as file:
    document = json.load(file)
errors = [f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
operations = [f"{method} {path}" for path, methods in document.get("paths", {}).items() for method in methods]
print(json.dumps({"version": document.get("openapi"), "errors": errors, "operations": operations}))
