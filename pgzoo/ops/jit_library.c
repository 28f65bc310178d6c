/* Calls one function that numba has compiled, with the arguments of a Python call; see jit_library.py.

   The compiler gets, as macros, what depends on the function:
   KINDS       a string for each argument: the format and the number of dimensions of an array ("d2"), "i" (int) or
               "b" (bool),
   PARAMETERS  the types of its parameters in C, and
   ARGUMENTS   their values, made of TYPES_1, VALUES_1(argument) and so on,
   RESULTS     the number of integers that it returns, 0 if it returns nothing.

   Declared here are a part of Python's stable interface (3.11), whose headers many machines don't have, and numba's
   calling convention (numba.core.callconv.CPUCallConv): an array is its owner, its parent, the number and the size of
   its items, the data, the shape, and the strides. */

#include <stddef.h>
#include <stdint.h>

typedef struct Object Object;

typedef struct {
  void *data;
  Object *owner;
  ptrdiff_t length, item_size;
  int read_only, ndim;
  char *format;
  ptrdiff_t *shape, *strides, *suboffsets;
  void *internal;
} Buffer;

enum { WITH_STRIDES = 0x10 | 0x08, WITH_FORMAT = 0x04 };

extern int PyObject_GetBuffer(Object *, Buffer *, int flags);
extern int PyBuffer_IsContiguous(const Buffer *, char order);
extern void PyBuffer_Release(Buffer *);
extern Object *PyTuple_New(ptrdiff_t);
extern int PyTuple_SetItem(Object *, ptrdiff_t, Object *);
extern Object *PyTuple_GetItem(Object *, ptrdiff_t);
extern ptrdiff_t PyTuple_Size(Object *);
extern long long PyLong_AsLongLong(Object *);
extern Object *PyLong_FromLongLong(long long);
extern Object _Py_TrueStruct, _Py_FalseStruct;
extern Object *PyBytes_FromStringAndSize(const char *, ptrdiff_t);
extern Object *PyErr_Occurred(void);
extern void PyErr_Clear(void);
extern Object *Py_BuildValue(const char *format, ...);
extern void *PyEval_SaveThread(void);
extern void PyEval_RestoreThread(void *);

enum { RETURNED = 0, RETURNED_NOTHING = -2 };

typedef struct {
  const char *content; /* the class and the arguments */
  int32_t length;
} Exception;

static const char *const kinds[] = {KINDS};

enum { COUNT = sizeof(kinds) / sizeof(*kinds) };

#define START_TYPES void *, void *, int64_t, int64_t, void *
#define TYPES_1 START_TYPES, int64_t, int64_t
#define TYPES_2 TYPES_1, int64_t, int64_t
#define TYPES_3 TYPES_2, int64_t, int64_t
#define START(i) NULL, NULL, items(&arrays[i]), arrays[i].item_size, arrays[i].data
#define VALUES_1(i) START(i), arrays[i].shape[0], arrays[i].strides[0]
#define VALUES_2(i) START(i), arrays[i].shape[0], arrays[i].shape[1], arrays[i].strides[0], arrays[i].strides[1]
#define VALUES_3(i) \
  START(i), arrays[i].shape[0], arrays[i].shape[1], arrays[i].shape[2], \
  arrays[i].strides[0], arrays[i].strides[1], arrays[i].strides[2]
#define NUMBER(i) numbers[i]

extern int32_t pgzoo_entry(void *result, Exception **raised, PARAMETERS);

static int64_t items(const Buffer *array) { return array->item_size ? array->length / array->item_size : 0; }

static int fits(const Buffer *array, const char *kind) {
  return !array->read_only && array->format && array->format[0] == kind[0] && !array->format[1] &&
         array->ndim == kind[1] - '0' && PyBuffer_IsContiguous(array, 'C');
}

/* Return a tuple of integers; bytes that describe an exception; None if the arguments, a tuple, aren't of the types that
   the function was compiled for. */
Object *pgzoo_call(Object *arguments) {
  static Buffer none;
  Buffer arrays[COUNT];
  int64_t numbers[COUNT], results[RESULTS + 1] = {0};
  int fit = PyTuple_Size(arguments) == COUNT, count = 0;
  for (; fit && count < COUNT; count++) {
    Object *argument = PyTuple_GetItem(arguments, count);
    const char *kind = kinds[count];
    arrays[count] = none;
    if (kind[1]) {
      fit = !PyObject_GetBuffer(argument, &arrays[count], WITH_STRIDES | WITH_FORMAT) && fits(&arrays[count], kind);
    } else if (kind[0] == 'b') {
      numbers[count] = argument == &_Py_TrueStruct;
      fit = numbers[count] || argument == &_Py_FalseStruct;
    } else {
      numbers[count] = PyLong_AsLongLong(argument);
      fit = !PyErr_Occurred();
    }
  }
  Exception *raised = NULL;
  int32_t status = RETURNED;
  if (fit) {
    void *thread = PyEval_SaveThread();
    status = pgzoo_entry(results, &raised, ARGUMENTS);
    PyEval_RestoreThread(thread);
  } else {
    PyErr_Clear();
  }
  for (int i = 0; i < count; i++) PyBuffer_Release(&arrays[i]); /* does nothing for a number */
  if (!fit) return Py_BuildValue("");
  if (status != RETURNED && status != RETURNED_NOTHING) {
    return PyBytes_FromStringAndSize(raised ? raised->content : NULL, raised ? raised->length : 0);
  }
  Object *tuple = PyTuple_New(RESULTS);
  for (int i = 0; tuple && i < RESULTS; i++) PyTuple_SetItem(tuple, i, PyLong_FromLongLong(results[i]));
  return tuple;
}
