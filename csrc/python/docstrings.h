// What help() shows for the functions of swa_fast._core.
#pragma once

namespace swa_fast::doc {

inline constexpr const char* kRunningMean =
    R"(running_mean_(averages, values, count, *, copies=None)
--

Updates each average to the mean of one more value, in place, all tensors in one pass.

The averages are memory of their own: begin with copies of the values, not with the values
themselves, whose mean with themselves never changes.

``averages[i] += (values[i] - averages[i]) * w`` with ``w = 1 / (count + 1)``, every operation
rounded on its own, in float32, or in float64 if either side is float64. The result has the same
bits as that NumPy expression, on every instruction set and number of threads. This is the running
mean of stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407, equation 3).

Args:
    averages: a list of tensors to update: anything with DLPack or the buffer protocol (NumPy
        arrays, torch tensors and parameters, TensorFlow eager tensors, CuPy arrays), of dtype
        float64, float32, float16, bfloat16 or complex, in CPU memory or on CUDA devices. Work on a
        CUDA device is queued on the current stream of torch or CuPy, and not waited for; tensors of
        other frameworks on CUDA devices are waited for.
    values: a list of as many tensors of the same shapes; dtypes may differ from the averages'.
    count: how many values the averages already hold, 0 <= count < 2**53. With 0 the values are
        copied, whatever the averages held. For tensors on one CUDA device, it may be an int64 tensor
        of shape () there, which is read when the work runs and not changed: in a CUDA graph, add
        one to it after the call. A negative one then gives averages of NaN.
    copies: None, or a pair of lists ``(dst, src)``: src is copied into dst in the same pass, by the
        rules of ``copy_``. For what belongs to a model and is not averaged, such as integer buffers.

Raises:
    TypeError: an argument is not a list of tensors, or a dtype cannot be averaged.
    ValueError: lengths or shapes differ, ``count`` is out of range, or memory overlaps.
    BufferError: a tensor is read-only, not contiguous, or cannot be exported.
    RuntimeError: the device cannot be reached (nothing was written), or CUDA failed during the
        work (the message names the error; averages may be partly written). The other errors are
        raised before the first write.

Example:
    >>> import numpy as np, swa_fast
    >>> averages = [np.array([1.0, 2.0])]
    >>> swa_fast.running_mean_(averages, [np.array([3.0, 6.0])], count=1)
    >>> averages[0]
    array([2., 4.])
)";

inline constexpr const char* kLerp = R"(lerp_(averages, values, weight, *, copies=None)
--

Moves each average by ``weight``, 1 - decay, to its value, in place: a decay of 0.999 is 0.001 here.

``averages += (values - averages) * weight`` is one step of the exponential moving average of decay
``1 - weight``. The averages are memory of their own, as in ``running_mean_``, whose arithmetic,
arguments and errors these are.

Args:
    averages: a list of tensors to update.
    values: a list of as many tensors of the same shapes.
    weight: a number, 0 <= weight <= 1, rounded once to the type computed in. 1 copies exactly,
        0 writes no average.
    copies: as in ``running_mean_``; copied whatever the weight.

Raises:
    TypeError, ValueError, BufferError, RuntimeError: as ``running_mean_``.

Example:
    >>> import numpy as np, swa_fast
    >>> averages = [np.array([0.0, 4.0])]
    >>> swa_fast.lerp_(averages, [np.array([4.0, 4.0])], weight=0.25)
    >>> averages[0]
    array([1., 4.])
)";

inline constexpr const char* kTfaMean = R"(tfa_mean_(averages, values, count)
--

Updates each average by the formula of ``tfa.optimizers.SWA``, in place:
``(averages * count + values) / (count + 1)``, every operation rounded on its own, in float32, or in
float64 if either side is float64. Arguments and errors are those of ``running_mean_``.

Args:
    averages: a list of tensors to update.
    values: a list of as many tensors of the same shapes.
    count: how many values the averages already hold, an int, 0 <= count < 2**53.
)";

inline constexpr const char* kCombine = R"(combine_(outputs, sources, weights)
--

Writes weighted sums of several lists of tensors: ``outputs[i] = sum_k weights[k] * sources[k][i]``.

Products and sums are made in float64, in the order of ``sources``, beginning with the first product,
and rounded once to the dtype of the output: the bits of the NumPy float64 expression
``(w[0] * x[0] + w[1] * x[1] + ...).astype(dtype)``, on every instruction set and number of threads.
So a mean of bfloat16 checkpoints is the exact mean, rounded once.

Args:
    outputs: a list of tensors to write, in CPU memory or on CUDA devices, of dtype float64, float32,
        float16, bfloat16 or complex. An output may be one of its own sources.
    sources: one list or more, each of as many tensors of the same shapes; dtypes may differ. On a
        CUDA device at most 1,364 lists, or 169 under drivers older than 530: a launch carries their
        addresses.
    weights: a finite number for each list of sources; of any sign and sum.

Raises:
    TypeError, ValueError, BufferError, RuntimeError: as ``running_mean_``.

Example:
    >>> import numpy as np, swa_fast
    >>> mean = [np.zeros(2, np.float32)]
    >>> a, b = [np.array([1.0, 2.0])], [np.array([3.0, 6.0])]
    >>> swa_fast.combine_(mean, [a, b], [0.5, 0.5])
    >>> mean[0]
    array([2., 4.], dtype=float32)
)";

inline constexpr const char* kSquaredDistances = R"(squared_distances(averages, values)
--

Returns for each pair ``(sum((averages[i] - values[i]) ** 2), sum(values[i] ** 2))``, in one pass and
in float64, with the same bits on every number of threads.

Args:
    averages: a list of floating-point or complex tensors in CPU memory.
    values: a list of as many tensors of the same shapes; dtypes may differ.

Raises:
    TypeError, ValueError, BufferError: as ``running_mean_``; a tensor on a GPU is a ValueError.
)";

inline constexpr const char* kIdentitiesOf = R"(identities_of(objects)
--

Returns the ``__dict__`` of each object: something that is never that of another object as long as it
is kept, and whose being kept does not keep the object.
)";

inline constexpr const char* kPrepared =
    R"(Prepared(values, targets, *, values_name="values", op="lerp")

Groups of one value and its targets, validated once and run at every step after a fresh look at each
tensor. The engine behind the averagers; see _core.pyi for the methods.
)";

inline constexpr const char* kAllFinite = R"(all_finite(tensors)
--

Whether every floating-point element of a list of dense tensors on the CPU is finite.
)";

inline constexpr const char* kVersions = R"(Versions(tensors)

The version counters of torch tensors, read when this is made, and compared by first_changed().
)";

inline constexpr const char* kHostCopies = R"(HostCopies(values, staging)

Copies of torch tensors to host memory, prepared once and started at every snapshot; on a side stream
for tensors on a CUDA device. See _core.pyi for the methods.
)";

inline constexpr const char* kSwap = R"(swap_(a, b)
--

Exchanges the contents of two lists of tensors, bit for bit, in one pass and without a third buffer.

Args:
    a: a list of tensors of any dtype.
    b: a list of as many tensors with the same shapes and dtypes.

Raises:
    TypeError, ValueError, BufferError, RuntimeError: as ``running_mean_``.

Example:
    >>> import numpy as np, swa_fast
    >>> a, b = [np.array([1, 2])], [np.array([3, 4])]
    >>> swa_fast.swap_(a, b)
    >>> a[0], b[0]
    (array([3, 4]), array([1, 2]))
)";

inline constexpr const char* kCopy = R"(copy_(dst, src)
--

Copies one list of tensors into another, converting between floating-point types.

Args:
    dst: a list of tensors to write.
    src: a list of as many tensors of the same shapes. Any dtype if it is the same on both sides;
        else both floating-point, or both complex. Conversion rounds once, to nearest even.

Raises:
    TypeError, ValueError, BufferError, RuntimeError: as ``running_mean_``.

Example:
    >>> import numpy as np, swa_fast
    >>> dst = [np.zeros(2, np.float16)]
    >>> swa_fast.copy_(dst, [np.array([0.1, 0.2])])
    >>> dst[0]
    array([0.1, 0.2], dtype=float16)
)";

inline constexpr const char* kSetNumThreads = R"(set_num_threads(n)
--

Sets how many threads a large call uses, for the whole process.

By default a call takes up to OpenMP's number, and fewer where the last calls of its size took less time
on fewer, as on a machine that other programs keep busy. A number that was set is not reduced. Results
do not depend on it.

Args:
    n: 1 to 4096, or None to return to the default: OpenMP's number (OMP_NUM_THREADS, the CPU
        affinity), not more than the control group's CPU quota unless OMP_NUM_THREADS is set.

Raises:
    TypeError: ``n`` is not an integer.
    ValueError: ``n`` is out of range.
)";

inline constexpr const char* kGetNumThreads = R"(get_num_threads()
--

Returns how many threads a large call from this thread may use. By default it can take fewer: see
``set_num_threads``.

1 in a forked child, where OpenMP's threads do not exist, and inside an OpenMP parallel region.
)";

inline constexpr const char* kBuildInfo = R"(build_info()
--

Returns a dict that says how this module was built and what it runs on.

Keys: version, commit, compiler, flags, isa (the instruction set in use), isas (those this CPU can
run, weakest first; SWA_FAST_ISA forces one), openmp, num_threads, storage_dtypes, and cuda, a dict
with built, available, reason (why it is not available, or ""), toolkit (its version), architectures
(compute capabilities times ten; "-virtual" is PTX, for newer ones), driver (newest CUDA version it
knows), devices (dicts with name, capability and memory in bytes) and max_pairs_per_launch.

Asking initialises the CUDA driver if there is one, as torch.cuda.is_available() does.
)";

}  // namespace swa_fast::doc
