"""The user's mistakes, told so that the user can mend them."""


class InputError(ValueError):
    """A mistake in a parameter, a file or a model folder: `where: what; remedy`.

    Stages and the command line print the message without a traceback and exit with code 2.
    """

    def __init__(self, where: object, what: str, remedy: str = "") -> None:
        self.where, self.what, self.remedy = str(where), what, remedy
        super().__init__(f"{where}: {what}" + (f"\n  remedy: {remedy}" if remedy else ""))
