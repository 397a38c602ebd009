"""The API against its own OpenAPI description: whatever fits or does not fit it, the answer is one it announces."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import served_model

from lens_scopes.server import create_app
from lens_scopes.server.settings import Access, Limits

app = create_app(
    {"tiny": served_model()},
    Limits(seconds=20.0),
    Access(hosts=frozenset({"localhost", "testserver"})),
)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: schemathesis.Case) -> None:
    # What fits the description may still not fit the model: that is refused with the sentence that says so.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
