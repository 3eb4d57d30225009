# The cells of a new chapter, in their usual order; `new_chapter.py` makes a notebook of them.
# It runs as it stands. Replace every sentence, and delete what the chapter does not need.
# ruff: noqa

# %% [markdown] title
# # TITLE
#
# > One sentence, the chapter's promise; it becomes the docstring of the module.
#
# Say in two or three lines what the part is for, before how it works, with a picture that the reader has in mind.
# You need [Attention](02_attention.ipynb).
# In the diagram, the parts of this chapter are lit.

# %% setup
#| default_exp MODULE

# %% imports hide-input
#| export
import torch
from jaxtyping import Float
from torch import Tensor

# %% imports-page hide-input
from annotated_decoder.teaching.diagrams import you_are_here
from annotated_decoder.pronunciation.model import pronouncer

# %% here remove-input
you_are_here("decoder")    # this chapter's own name, once its boxes are lit in the appendix on diagrams

# %% [markdown] idea
# ## The need, as a heading in plain words
#
# What goes wrong without this part?
# Then a picture or a sentence that a reader can hold on to, then numbers small enough to check by hand.
# Ask for a prediction before each surprise: what will the next cell print?

# %% small-numbers
x = torch.tensor([1.0, 2.0], dtype=torch.float64)
doubled = x + x
print([f"{number:.3f}" for number in doubled.tolist()])
assert doubled.tolist() == [2, 4]

# %% [markdown] formula
# Now the formula, every letter of it named, and then the definition, which is exported:
#
# $$\text{double}(x) = 2x .$$

# %% double
#| export
def double(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Twice x.

    Chapter *TITLE*.
    """
    return 2 * x

# %% law-double
assert torch.equal(double(x), doubled)
assert torch.equal(double(double(x)), 4 * x)
print("agrees with the numbers above: True")

# %% [markdown] claim-nN-heading
# ## Claim NN
#
# > The claim as usually told.
#
# What is loose in it, kindly, and the precise version, which the cell checks: the cell must fail if it is false.
# Name the cell `claim-n` and the number, and link it in `book/claims.md`.

# %% [markdown] question
# ## A reader's question, in the reader's words?
#
# The answer in one sentence, and a cell that shows it.

# %% [markdown] real
# ## On the real model
#
# The same thing inside the trained model.

# %% on-the-real-model
trained = pronouncer()
width = trained.model.decoder.config.d_model
print("the trained model is", width, "wide")
assert double(torch.ones(width)).sum() == 2 * width

# %% [markdown] exercises
# ## Exercises
#
# Three to six, of three kinds: by hand, in code, find the bug.
# Each is a cell `exercise-NAME`, which ends in its checker, and a cell `solution-NAME` that folds out (tag `hide-cell`).
# `check` in the appendices holds the checkers, and shows how to write one.

# %% [markdown] exported
# ## What we exported
#
# | symbol | what it is | where it is used next |
# |---|---|---|
# | `double` | twice a tensor | nowhere yet |

# %% [markdown] further
# ## Further reading
#
# - [Author year](https://arxiv.org/abs/1706.03762): what it adds to the chapter, in one line.
