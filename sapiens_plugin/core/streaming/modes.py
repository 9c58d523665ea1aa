"""What each mode keeps its numbers in; docs/streaming.md has the errors."""

MODES = {
    'exact': dict(
        boundary_dtype='float32', gradient_dtype='float32', moment_dtype='float32'
    ),
    'compact': dict(
        boundary_dtype='float16', gradient_dtype='bfloat16', moment_dtype='int8'
    ),
}

DTYPES = dict(
    boundary_dtype=('float32', 'float16', 'bfloat16'),
    gradient_dtype=('float32', 'bfloat16'),
    moment_dtype=('float32', 'bfloat16', 'int8'),
)
"""What each of these may be."""
