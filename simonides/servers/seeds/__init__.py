"""Routes as clients of other memories know them, one file a design: each maps its shapes to our operations.

What these routes answer follows the operations in every respect that matters: scope, permits, filters, erases.
"""
