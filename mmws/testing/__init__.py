"""Trial runs of models on tiny images, and how far their outputs lie apart."""

from mmws.compat import require_stack

require_stack('mmws.testing')
