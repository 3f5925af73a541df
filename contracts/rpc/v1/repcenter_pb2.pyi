from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestPriority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REQUEST_PRIORITY_UNSPECIFIED: _ClassVar[RequestPriority]
    REQUEST_PRIORITY_LOW: _ClassVar[RequestPriority]
    REQUEST_PRIORITY_NORMAL: _ClassVar[RequestPriority]
    REQUEST_PRIORITY_HIGH: _ClassVar[RequestPriority]

class MissingPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MISSING_POLICY_UNSPECIFIED: _ClassVar[MissingPolicy]
    MISSING_POLICY_MASK: _ClassVar[MissingPolicy]
    MISSING_POLICY_FAIL: _ClassVar[MissingPolicy]
    MISSING_POLICY_ENCODE: _ClassVar[MissingPolicy]

class CandidateStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANDIDATE_STATUS_UNSPECIFIED: _ClassVar[CandidateStatus]
    CANDIDATE_STATUS_OK: _ClassVar[CandidateStatus]
    CANDIDATE_STATUS_COLD: _ClassVar[CandidateStatus]
    CANDIDATE_STATUS_MISSING: _ClassVar[CandidateStatus]
    CANDIDATE_STATUS_DEFAULT: _ClassVar[CandidateStatus]
    CANDIDATE_STATUS_ENCODED: _ClassVar[CandidateStatus]

class ItemState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_STATE_UNSPECIFIED: _ClassVar[ItemState]
    ITEM_STATE_QUEUED: _ClassVar[ItemState]
    ITEM_STATE_ENCODING: _ClassVar[ItemState]
    ITEM_STATE_SCOREABLE: _ClassVar[ItemState]
    ITEM_STATE_DELETED: _ClassVar[ItemState]
    ITEM_STATE_DEAD: _ClassVar[ItemState]

class BehaviourSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BEHAVIOUR_SOURCE_UNSPECIFIED: _ClassVar[BehaviourSource]
    BEHAVIOUR_SOURCE_REQUEST: _ClassVar[BehaviourSource]
    BEHAVIOUR_SOURCE_STORED: _ClassVar[BehaviourSource]
REQUEST_PRIORITY_UNSPECIFIED: RequestPriority
REQUEST_PRIORITY_LOW: RequestPriority
REQUEST_PRIORITY_NORMAL: RequestPriority
REQUEST_PRIORITY_HIGH: RequestPriority
MISSING_POLICY_UNSPECIFIED: MissingPolicy
MISSING_POLICY_MASK: MissingPolicy
MISSING_POLICY_FAIL: MissingPolicy
MISSING_POLICY_ENCODE: MissingPolicy
CANDIDATE_STATUS_UNSPECIFIED: CandidateStatus
CANDIDATE_STATUS_OK: CandidateStatus
CANDIDATE_STATUS_COLD: CandidateStatus
CANDIDATE_STATUS_MISSING: CandidateStatus
CANDIDATE_STATUS_DEFAULT: CandidateStatus
CANDIDATE_STATUS_ENCODED: CandidateStatus
ITEM_STATE_UNSPECIFIED: ItemState
ITEM_STATE_QUEUED: ItemState
ITEM_STATE_ENCODING: ItemState
ITEM_STATE_SCOREABLE: ItemState
ITEM_STATE_DELETED: ItemState
ITEM_STATE_DEAD: ItemState
BEHAVIOUR_SOURCE_UNSPECIFIED: BehaviourSource
BEHAVIOUR_SOURCE_REQUEST: BehaviourSource
BEHAVIOUR_SOURCE_STORED: BehaviourSource

class Behaviour(_message.Message):
    __slots__ = ("item_id", "timestamp_ms")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    timestamp_ms: int
    def __init__(self, item_id: _Optional[str] = ..., timestamp_ms: _Optional[int] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("scene", "user_id", "behaviours", "candidates", "generation", "user", "context", "timestamp_ms", "query", "request_id", "top_k", "missing", "default_score", "explain", "query_text", "query_image", "contents", "priority")
    class UserEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    class QueryEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Vector
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...
    class ContentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Item
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...
    SCENE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOURS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    QUERY_TEXT_FIELD_NUMBER: _ClassVar[int]
    QUERY_IMAGE_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    scene: str
    user_id: str
    behaviours: _containers.RepeatedCompositeFieldContainer[Behaviour]
    candidates: _containers.RepeatedScalarFieldContainer[str]
    generation: str
    user: _containers.MessageMap[str, Attribute]
    context: _containers.MessageMap[str, Attribute]
    timestamp_ms: int
    query: _containers.MessageMap[str, Vector]
    request_id: str
    top_k: int
    missing: MissingPolicy
    default_score: float
    explain: int
    query_text: str
    query_image: bytes
    contents: _containers.MessageMap[str, Item]
    priority: RequestPriority
    def __init__(self, scene: _Optional[str] = ..., user_id: _Optional[str] = ..., behaviours: _Optional[_Iterable[_Union[Behaviour, _Mapping]]] = ..., candidates: _Optional[_Iterable[str]] = ..., generation: _Optional[str] = ..., user: _Optional[_Mapping[str, Attribute]] = ..., context: _Optional[_Mapping[str, Attribute]] = ..., timestamp_ms: _Optional[int] = ..., query: _Optional[_Mapping[str, Vector]] = ..., request_id: _Optional[str] = ..., top_k: _Optional[int] = ..., missing: _Optional[_Union[MissingPolicy, str]] = ..., default_score: _Optional[float] = ..., explain: _Optional[int] = ..., query_text: _Optional[str] = ..., query_image: _Optional[bytes] = ..., contents: _Optional[_Mapping[str, Item]] = ..., priority: _Optional[_Union[RequestPriority, str]] = ...) -> None: ...

class Completeness(_message.Message):
    __slots__ = ("behaviours_asked", "behaviours_found", "candidates_asked", "candidates_found", "columns_asked", "columns_found", "encoded", "encode_failed", "behaviours_source", "stale")
    BEHAVIOURS_ASKED_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOURS_FOUND_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_ASKED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FOUND_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_ASKED_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FOUND_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FAILED_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOURS_SOURCE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    behaviours_asked: int
    behaviours_found: int
    candidates_asked: int
    candidates_found: int
    columns_asked: int
    columns_found: int
    encoded: int
    encode_failed: int
    behaviours_source: BehaviourSource
    stale: bool
    def __init__(self, behaviours_asked: _Optional[int] = ..., behaviours_found: _Optional[int] = ..., candidates_asked: _Optional[int] = ..., candidates_found: _Optional[int] = ..., columns_asked: _Optional[int] = ..., columns_found: _Optional[int] = ..., encoded: _Optional[int] = ..., encode_failed: _Optional[int] = ..., behaviours_source: _Optional[_Union[BehaviourSource, str]] = ..., stale: _Optional[bool] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "fetch_ms", "assemble_ms", "run_ms", "total_ms", "encode_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    FETCH_MS_FIELD_NUMBER: _ClassVar[int]
    ASSEMBLE_MS_FIELD_NUMBER: _ClassVar[int]
    RUN_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    fetch_ms: float
    assemble_ms: float
    run_ms: float
    total_ms: float
    encode_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., fetch_ms: _Optional[float] = ..., assemble_ms: _Optional[float] = ..., run_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., encode_ms: _Optional[float] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scene", "generation", "scores", "statuses", "completeness", "timings", "request_id", "top", "explanations")
    SCENE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    scene: str
    generation: str
    scores: _containers.RepeatedScalarFieldContainer[float]
    statuses: _containers.RepeatedScalarFieldContainer[CandidateStatus]
    completeness: Completeness
    timings: Timings
    request_id: str
    top: _containers.RepeatedCompositeFieldContainer[TopItem]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    def __init__(self, scene: _Optional[str] = ..., generation: _Optional[str] = ..., scores: _Optional[_Iterable[float]] = ..., statuses: _Optional[_Iterable[_Union[CandidateStatus, str]]] = ..., completeness: _Optional[_Union[Completeness, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., request_id: _Optional[str] = ..., top: _Optional[_Iterable[_Union[TopItem, _Mapping]]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ...) -> None: ...

class TopItem(_message.Message):
    __slots__ = ("item_id", "position", "score")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: int
    score: float
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class ScoreManyRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ...) -> None: ...

class ScoreOutcome(_message.Message):
    __slots__ = ("answer", "refusal")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    answer: ScoreResponse
    refusal: Refusal
    def __init__(self, answer: _Optional[_Union[ScoreResponse, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class ScoreManyResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[ScoreOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[ScoreOutcome, _Mapping]]] = ...) -> None: ...

class Weighed(_message.Message):
    __slots__ = ("item_id", "age", "value")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    age: int
    value: float
    def __init__(self, item_id: _Optional[str] = ..., age: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...

class WeighedBehaviours(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Weighed]
    def __init__(self, values: _Optional[_Iterable[_Union[Weighed, _Mapping]]] = ...) -> None: ...

class Distribution(_message.Message):
    __slots__ = ("regions", "intervals", "shares")
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    regions: int
    intervals: int
    shares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, regions: _Optional[int] = ..., intervals: _Optional[int] = ..., shares: _Optional[_Iterable[float]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("item_id", "position", "score", "logit", "contributions", "behaviours", "distributions")
    class ContributionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class BehavioursEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: WeighedBehaviours
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[WeighedBehaviours, _Mapping]] = ...) -> None: ...
    class DistributionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Distribution
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Distribution, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LOGIT_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOURS_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: int
    score: float
    logit: float
    contributions: _containers.ScalarMap[str, float]
    behaviours: _containers.MessageMap[str, WeighedBehaviours]
    distributions: _containers.MessageMap[str, Distribution]
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[int] = ..., score: _Optional[float] = ..., logit: _Optional[float] = ..., contributions: _Optional[_Mapping[str, float]] = ..., behaviours: _Optional[_Mapping[str, WeighedBehaviours]] = ..., distributions: _Optional[_Mapping[str, Distribution]] = ...) -> None: ...

class ListGenerationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Scene(_message.Message):
    __slots__ = ("name", "generation", "revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: str
    revision: int
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class GenerationInfo(_message.Message):
    __slots__ = ("id", "created_ms", "space_id", "encoder_digest", "ranker_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RANKER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    created_ms: int
    space_id: str
    encoder_digest: str
    ranker_digest: str
    def __init__(self, id: _Optional[str] = ..., created_ms: _Optional[int] = ..., space_id: _Optional[str] = ..., encoder_digest: _Optional[str] = ..., ranker_digest: _Optional[str] = ...) -> None: ...

class ListGenerationsResponse(_message.Message):
    __slots__ = ("scenes", "generations")
    SCENES_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    scenes: _containers.RepeatedCompositeFieldContainer[Scene]
    generations: _containers.RepeatedCompositeFieldContainer[GenerationInfo]
    def __init__(self, scenes: _Optional[_Iterable[_Union[Scene, _Mapping]]] = ..., generations: _Optional[_Iterable[_Union[GenerationInfo, _Mapping]]] = ...) -> None: ...

class TokenList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("text", "number", "tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    tokens: TokenList
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ..., tokens: _Optional[_Union[TokenList, _Mapping]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "text", "attributes", "image", "image_url")
    class TextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_URL_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    text: _containers.ScalarMap[str, str]
    attributes: _containers.MessageMap[str, Attribute]
    image: bytes
    image_url: str
    def __init__(self, item_id: _Optional[str] = ..., text: _Optional[_Mapping[str, str]] = ..., attributes: _Optional[_Mapping[str, Attribute]] = ..., image: _Optional[bytes] = ..., image_url: _Optional[str] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("item", "idempotency_key")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    item: Item
    idempotency_key: str
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("item_id", "idempotency_key")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    idempotency_key: str
    def __init__(self, item_id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class PushReceipt(_message.Message):
    __slots__ = ("item_id", "sequence", "replayed")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    sequence: int
    replayed: bool
    def __init__(self, item_id: _Optional[str] = ..., sequence: _Optional[int] = ..., replayed: _Optional[bool] = ...) -> None: ...

class PushManyRequest(_message.Message):
    __slots__ = ("push", "delete")
    PUSH_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    push: PushRequest
    delete: DeleteRequest
    def __init__(self, push: _Optional[_Union[PushRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "detail", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    retry_after_ms: int
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class PushOutcome(_message.Message):
    __slots__ = ("index", "item_id", "receipt", "refusal")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    index: int
    item_id: str
    receipt: PushReceipt
    refusal: Refusal
    def __init__(self, index: _Optional[int] = ..., item_id: _Optional[str] = ..., receipt: _Optional[_Union[PushReceipt, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("items", "records")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    records: bool
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., records: _Optional[bool] = ...) -> None: ...

class EncodedItem(_message.Message):
    __slots__ = ("vectors", "record", "flagged", "refusal")
    class VectorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Vector
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.MessageMap[str, Vector]
    record: bytes
    flagged: _containers.RepeatedScalarFieldContainer[str]
    refusal: Refusal
    def __init__(self, vectors: _Optional[_Mapping[str, Vector]] = ..., record: _Optional[bytes] = ..., flagged: _Optional[_Iterable[str]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("space_id", "encoder_digest", "items")
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    space_id: str
    encoder_digest: str
    items: _containers.RepeatedCompositeFieldContainer[EncodedItem]
    def __init__(self, space_id: _Optional[str] = ..., encoder_digest: _Optional[str] = ..., items: _Optional[_Iterable[_Union[EncodedItem, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("item_id",)
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    def __init__(self, item_id: _Optional[str] = ...) -> None: ...

class ItemStatus(_message.Message):
    __slots__ = ("item_id", "state", "sequence", "reason", "updated_ms")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UPDATED_MS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    state: ItemState
    sequence: int
    reason: str
    updated_ms: int
    def __init__(self, item_id: _Optional[str] = ..., state: _Optional[_Union[ItemState, str]] = ..., sequence: _Optional[int] = ..., reason: _Optional[str] = ..., updated_ms: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("user_id", "item_id", "timestamp_ms", "event_id", "kind")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_id: str
    timestamp_ms: int
    event_id: str
    kind: str
    def __init__(self, user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., timestamp_ms: _Optional[int] = ..., event_id: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class AppendEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class AppendEventsReceipt(_message.Message):
    __slots__ = ("appended", "duplicates", "too_old", "forgotten", "ignored")
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    TOO_OLD_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    appended: int
    duplicates: int
    too_old: int
    forgotten: int
    ignored: int
    def __init__(self, appended: _Optional[int] = ..., duplicates: _Optional[int] = ..., too_old: _Optional[int] = ..., forgotten: _Optional[int] = ..., ignored: _Optional[int] = ...) -> None: ...

class ForgetUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class ForgetUserReceipt(_message.Message):
    __slots__ = ("user_id", "behaviours", "forgotten_ms")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    BEHAVIOURS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_MS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    behaviours: int
    forgotten_ms: int
    def __init__(self, user_id: _Optional[str] = ..., behaviours: _Optional[int] = ..., forgotten_ms: _Optional[int] = ...) -> None: ...
