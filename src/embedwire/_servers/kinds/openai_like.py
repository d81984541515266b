"""Everything else that answers ``/v1/embeddings``: OpenAI, hosted services, gateways; and the words that many share."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

_FIELD = r"(?:parameter|argument|field|propert(?:y|ies)|option)s?"

OPENAI_LIKE = ServerKind(
    name="openai-like",
    words=Words(
        too_long=(
            r"maximum context length|(?:input|text|prompt|sequence) (?:is )?too long"
            r"|too many (?:input )?tokens\b(?! (?:overall|in))"
            r"|(?:exceeds?|longer than|over) (?:the )?(?:max\w*|allowed|model)\b[^.]{0,40}"
            r"(?:length|tokens|context|token size)"
        ),
        # Mistral: "Input id 3 has 9000 tokens, exceeding max 8192"; NIM: "length 600 exceeds maximum allowed token size
        # 512".
        tokens=(
            r"(?P<tokens>\d+)(?: input)?(?: tokens?)?,? (?:which )?"
            r"(?:exceed(?:s|ing)?|is (?:longer|larger|greater) than)\D{0,60}?(?P<limit>\d+)"
        ),
        # "should not be larger than 10" (Bailian), "must not exceed 64", "at most 96", "less than or equal to 128",
        # each in a message about the batch or the count of inputs; "number of inputs is 16" (Azure); "maximum length
        # 2048" of an array (OpenAI).
        too_many=(
            r"(?:not be (?:larger|greater) than|(?:must|should|can|may)(?:not| not) exceed|at most"
            r"|(?:less|fewer|smaller) than or equal to|max(?:imum)? batch size(?: is| of)?|up to"
            r"|max(?:imum)? number of inputs(?: is)?|array with maximum length"
            r"|exceed(?:s|ing)?(?: the)? max\w*(?: allowed)?(?: batch size)?(?: of)?)"
            r"\D{0,12}?(?P<most>\d+)"
        ),
        # OpenAI's tiers and its "max 300000 tokens per request", Voyage's "tokens per submitted batch", Mistral's
        # "Too many tokens overall".
        too_large=(
            r"request too large[^.]*(?:tokens per|\bTPM\b)|tokens? per (?:submitted )?(?:batch|request)\b"
            r"|too many tokens (?:overall|in (?:the |this )?(?:batch|request))"
        ),
        of_request=(
            r"(?:un(?:supported|known|expected|recogni[sz]ed)|missing|invalid|extra)"
            rf"(?: required| request| body)? {_FIELD}\b"
            rf"|\b{_FIELD}\b[^.]{{0,40}}(?:required|missing|not (?:permitted|allowed|supported))"
            r"|extra inputs? (?:are|is) not permitted|extra_forbidden|encoding_format|input_type|\bdimensions\b"
        ),
        of_model=(
            r"\bmodel\b[^.]{0,120}?(?:not found|(?:does not|doesn't|not) exist|unknown|not available|not supported"
            r"|is invalid|not a valid|not allowed|not served)|(?:unknown|invalid|no such|unsupported|missing) model\b"
            r"|model_not_found"
        ),
        # litellm and Gemini answer a wrong key with a 400.
        of_key=(
            r"(?:invalid|incorrect|wrong|missing|bad|expired) (?:api[ _-]?key|credentials?)"
            r"|(?:invalid|incorrect|missing|expired) (?:access|auth\w*|bearer|proxy server) token"
            r"|authentication(?:[ _]error| failed)|unauthori[sz]ed|unauthenticated"
            r"|api[ _-]?key (?:is |was )?(?:not valid|invalid|missing|required|expired|not found)"
        ),
        used_up=(
            r"insufficient[ _](?:quota|balance|funds|credits?)|exceeded your current quota|arrearage|good standing"
            r"|billing|payment required|out of credits|credits? (?:are |is )?(?:exhausted|depleted|used up)"
        ),
        loading=(
            r"\b(?:is|still|currently|being) (?:being |currently |still )?(?:loading|initiali[sz]ing|starting)\b"
            r"|loading (?:the )?model|\bnot (?:yet )?ready\b|warming up|starting up|cold start"
        ),
        throttled=(
            r"rate[ _-]?limit|too many requests|(?:requests?|tokens?) per (?:min|sec|hour|day)|\b[RT]PM\b|\bQPS\b"
            r"|throttl|quota exceeded|too frequent|slow down"
        ),
    ),
)
