"""Outputs of models in formats with tags and special tokens, and what they consist of."""

from mlxmesh_generation.parsers.parts import ReasoningPart
from tests.unit.generation.parsers.outputs import Written, call, text

_OSLO = call("get_weather", '{"city": "Oslo"}')
_TYPED = call("get_weather", '{"city": "3", "days": 3}')
_CUT = '{"city": "Os'

_QWEN = "<tool_call>\n<function={}>\n{}</function>\n</tool_call>"
_QWEN_OSLO = _QWEN.format("get_weather", "<parameter=city>\nOslo\n</parameter>\n")
QWEN3_CODER = {
    "Hello!\n": (text("Hello!\n"),),
    _QWEN_OSLO: _OSLO,
    f"Wait.\n\n{_QWEN_OSLO}\n{_QWEN.format('get_time', '')}\n": (
        text("Wait."),
        *_OSLO,
        *call("get_time"),
    ),
    "a<tool_call><function=get_weather><parameter=city>Oslo</parameter></function></tool_call>b": (
        text("a"),
        *_OSLO,
        text("b"),
    ),
    _QWEN.format(
        "get_weather",
        "<parameter=city>\n3\n</parameter>\n<parameter=days>\n3\n</parameter>\n",
    ): _TYPED,
    # A value keeps its own lines and whatever looks like a marker.
    _QWEN.format("get_weather", '<parameter=city>\n  "a"\n\tb\\\n\n</parameter>\n'): call(
        "get_weather", '{"city": "  \\"a\\"\\n\\tb\\\\\\n"}'
    ),
    _QWEN.format(
        "get_weather",
        "<parameter=city>\n</parameter> or </function> or <parameter=x>\n</parameter>\n",
    ): call("get_weather", '{"city": "</parameter> or </function> or <parameter=x>"}'),
    # Ends that models forget.
    _QWEN.format("get_weather", "<parameter=city>\n3\n<parameter=days>\n3\n"): _TYPED,
    "<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>": (
        _OSLO
    ),
    "<tool_call>\n<function=get_time>\n</tool_call>": call("get_time"),
    # What is no call is text.
    "<function=unknown> is text": (text("<function=unknown> is text"),),
    "<tool_call>\nnothing</tool_call>": (text("<tool_call>\nnothing</tool_call>"),),
    "a <function=get_": (text("a <function=get_"),),
    # Cut by the largest number of tokens.
    "Wait.\n<tool_call>": (text("Wait."),),
    "Wait.\n<tool_call>\n<function=get_we": (text("Wait."),),
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nOs": call("get_weather", _CUT),
    "<tool_call>\n<function=get_weather>\n<parameter=days>\n1": call("get_weather", '{"days": 1'),
}

_GLM_OSLO = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>"
GLM = {
    "Hello!": (text("Hello!"),),
    _GLM_OSLO: _OSLO,
    "a\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>3</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>": (text("a"), *_TYPED),
    f"{_GLM_OSLO}\n<tool_call>get_time</tool_call>.": (*_OSLO, *call("get_time"), text(".")),
    "<tool_call>get_weather<arg_key>city</arg_key><arg_value></tool_call> <arg_key>"
    "</arg_value></tool_call>": call("get_weather", '{"city": "</tool_call> <arg_key>"}'),
    "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</tool_call>": _OSLO,
    "<tool_call>{}</tool_call>": (text("<tool_call>{}</tool_call>"),),
    "a<tool_call>get_we": (text("a"),),
    "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Os": call("get_weather", _CUT),
}


def _deepseek(*calls: str) -> str:
    inner = "".join(f"<｜tool▁call▁begin｜>{each}<｜tool▁call▁end｜>" for each in calls)
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


_V3_OSLO = 'function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"}\n```'
_V3_TIME = "function<｜tool▁sep｜>get_time\n```json\n{}\n```"
DEEPSEEK_V3 = {
    "Hello!": (text("Hello!"),),
    f"a {_deepseek(_V3_OSLO, _V3_TIME)}": (text("a "), *_OSLO, *call("get_time")),
    _deepseek('function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"\n```'): call(
        "get_weather", '{"city": "Oslo"\n```'
    ),
    _deepseek("nothing"): (text("<｜tool▁call▁begin｜>nothing<｜tool▁call▁end｜>"),),
    "a<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>func": (text("a"),),
}
_V31_TIME = "get_time<｜tool▁sep｜>{}"
DEEPSEEK_V31 = {
    _deepseek('get_weather<｜tool▁sep｜>{"city": "Oslo"}', _V31_TIME): (*_OSLO, *call("get_time")),
    _deepseek('get_weather<｜tool▁sep｜>{"city": "<｜tool▁call▁end｜>"}'): call(
        "get_weather", '{"city": "<｜tool▁call▁end｜>"}'
    ),
    f"<｜tool▁call▁begin｜>{_V31_TIME}<｜tool▁call▁end｜>b": (*call("get_time"), text("b")),
    "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>": (),
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Os': call(
        "get_weather", _CUT
    ),
}


def _dsml(block: str, *calls: str, space: str = "") -> str:
    text = f"<｜DSML｜{block}>\n{''.join(calls)}</｜DSML｜{block}>"
    return text.replace("｜DSML｜", f"｜DSML｜{space}")


_DSML_OSLO = (
    '<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Oslo'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
)
_DSML_DAYS = _DSML_OSLO.replace(
    "</｜DSML｜invoke>",
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>',
)
DEEPSEEK_V32 = {
    f"a\n\n{_dsml('function_calls', _DSML_OSLO, _DSML_DAYS)}": (
        text("a"),
        *_OSLO,
        *call("get_weather", '{"city": "Oslo", "days": 3}'),
    ),
    _dsml("function_calls", "nothing"): (text(_dsml("function_calls", "nothing")),),
}
DEEPSEEK_V4 = {
    _dsml("tool_calls", '<｜DSML｜invoke name="get_time"/>\n'): call("get_time"),
    _dsml("tool_calls", _DSML_OSLO): _OSLO,
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" '
    'string="true">Os': call("get_weather", _CUT),
}
DEEPSEEK_V41 = {_dsml("calls", _DSML_OSLO, space=" "): _OSLO}

_M2 = '<minimax:tool_call>\n<invoke name="get_weather">\n{}</invoke>\n</minimax:tool_call>'
MINIMAX = {
    "a\n" + _M2.format('<parameter name="city">Oslo</parameter>\n'): (text("a"), *_OSLO),
    _M2.format(
        '<parameter name="city">3</parameter>\n<parameter name="days">3</parameter>\n'
    ): _TYPED,
    _M2.format(""): call("get_weather"),
    '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Os': call(
        "get_weather", _CUT
    ),
}


def _kimi(*calls: str) -> str:
    inner = "".join(f"<|tool_call_begin|>{each}<|tool_call_end|>" for each in calls)
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


_KIMI_OSLO = 'functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}'
_KIMI_CALL = call("get_weather", '{"city": "Oslo"}', "functions.get_weather:0")
KIMI_K2 = {
    f"a {_kimi(_KIMI_OSLO, 'get_time:1 <|tool_call_argument_begin|>{}')} b": (
        text("a "),
        *_KIMI_CALL,
        *call("get_time", "{}", "get_time:1"),
        text(" b"),
    ),
    _kimi('functions.f:2<|tool_call_argument_begin|>{"a": "<|tool_call_end|>"}'): call(
        "f", '{"a": "<|tool_call_end|>"}', "functions.f:2"
    ),
    f"<|tool_calls_section_begin|> noise <|tool_call_begin|>{_KIMI_OSLO}<|tool_call_end|>": (
        _KIMI_CALL
    ),
    f"<|tool_call_begin|>{_KIMI_OSLO}<|tool_call_begin|>{_KIMI_OSLO}": (*_KIMI_CALL, *_KIMI_CALL),
}

_Q = '<|"|>'
GEMMA4 = {
    f"a <|tool_call>call:get_weather{{city:{_Q}Oslo{_Q}}}<tool_call|> b": (
        text("a "),
        *call("get_weather", '{"city":"Oslo"}'),
        text(" b"),
    ),
    f'<|tool_call>call:f{{a b:[1,{_Q}}}"{_Q}, {{c:null}}],d:word,e:{{}}}}<tool_call|>': call(
        "f", '{"a b":[1,"}\\"",{"c":null}],"d":"word","e":{}}'
    ),
    '<|tool_call>call:f{"a":"b"}<tool_call|><|tool_call>call:get_time{}<tool_call|>': (
        *call("f", '{"a":"b"}'),
        *call("get_time"),
    ),
    "<|tool_call>call:f no<tool_call|>": (text("<|tool_call>call:f no<tool_call|>"),),
    f"<|tool_call>call:f{{a:{_Q}x": call("f", '{"a":"x'),
    "a<|tool_call>call:f": (text("a"),),
}

_ANALYSIS = "<|channel|>analysis<|message|>{}<|end|>"
_WEATHER_HEAD = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
_REASON = ReasoningPart("Hm.")
HARMONY = {
    "<|channel|>final<|message|>Hello!": (text("Hello!"),),
    f"{_ANALYSIS.format('Hm.')}<|start|>assistant<|channel|>final<|message|>Hi": (
        _REASON,
        text("Hi"),
    ),
    f'{_ANALYSIS.format("Hm.")}<|start|>assistant{_WEATHER_HEAD}{{"city": "Oslo"}}': (
        _REASON,
        *_OSLO,
    ),
    ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>': _OSLO,
    "<|channel|>commentary<|message|>Look:<|end|>"
    f'<|start|>assistant{_WEATHER_HEAD}{{"city": "<|end|>"}}': (
        text("Look:"),
        *call("get_weather", '{"city": "<|end|>"}'),
    ),
    _ANALYSIS.format("<|call|> <|end|> and <|channel|>"): (
        ReasoningPart("<|call|> <|end|> and <|channel|>"),
    ),
    "<|channel|>commentary to=python <|constrain|>code<|message|>print()": (),
    f"<|channel|>??<|end|><|start|>assistant{_ANALYSIS.format('Hm.')}": (_REASON,),
    '<|channel|>final {"a": 1}': (text('{"a": 1}'),),
    "Only text": (text("Only text"),),
    f"{_ANALYSIS.format('Hm.')}<|start|>assistant to=functions.get_wea": (_REASON,),
    f'{_WEATHER_HEAD}{{"city": "Os': call("get_weather", _CUT),
}

_BY_FORMAT = {
    "qwen3_coder": QWEN3_CODER,
    "glm": GLM,
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v31": DEEPSEEK_V31,
    "deepseek_v32": DEEPSEEK_V32,
    "deepseek_v4": DEEPSEEK_V4,
    "deepseek_v41": DEEPSEEK_V41,
    "minimax": MINIMAX,
    "kimi_k2": KIMI_K2,
    "gemma4": GEMMA4,
    "harmony": HARMONY,
}
OUTPUTS = tuple(
    Written(name, output, tuple(parts))
    for name, outputs in _BY_FORMAT.items()
    for output, parts in outputs.items()
)
