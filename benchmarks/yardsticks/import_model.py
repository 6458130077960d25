"""What has to be there before anything can be checked: torch and the model's own module."""

from __future__ import annotations

import gpt

assert gpt.Gpt
