"""What a request of a batch has beyond its body."""

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1.generation_pb2 import SERVICE_TIER_FLEX, GenerateRequest
from mlxmesh_worker.kinds.convert import job_request


def test_it_is_found_by_its_job_and_is_of_the_flex_tier() -> None:
    request = job_request(GenerateRequest(model="m", prompt="x"), "batch_1:7")
    assert (request.request_id, request.service_tier) == ("batch_1:7", SERVICE_TIER_FLEX)
    assert (request.model, request.prompt) == ("m", "x")


def test_every_attempt_has_the_same_seed_and_other_requests_have_others() -> None:
    seeds = {
        job_request(GenerateRequest(model="m", prompt="x"), f"batch_1:{number}").sampling.seed
        for number in [*range(100), *range(100)]
    }
    assert len(seeds) == 100


def test_the_seed_of_a_body_stays() -> None:
    asked = GenerateRequest(model="m", prompt="x", sampling=Sampling(seed=0))
    assert job_request(asked, "batch_1:1").sampling.seed == 0
