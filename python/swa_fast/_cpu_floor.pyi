required: list[str]
