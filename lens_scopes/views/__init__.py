"""Views of results: a self-contained HTML page, the terminal, a matplotlib figure, a notebook frame.

    to_html(result)                                          # one HTML document that opens offline
    attribution_page(attribution, heads=…, matrix=…, modes=…).to_html()  # several results of one prompt on one page
    print_result(result)                                     # in the terminal
    figure_of(result).savefig("figure.pdf")

Names are imported when first used, so that a terminal view loads neither matplotlib nor CircuitsVis.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
