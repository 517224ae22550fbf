// Walks over every pair of storage types and every instruction set that can run here.
#pragma once

#include <string>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "cpu/kernel.h"

template <class T>
struct Storage {
  using Type = T;
  int index;         // in the kernel tables
  const char* name;  // "float32"
};

template <class Body, class... Types>
void for_each_storage_of(const Body& body, swa_fast::TypeList<Types...>) {
#define SWA_FAST_NAME(enumerator, type, name, code, bits) name,
  const char* const names[] = {SWA_FAST_FOR_EACH_STORAGE_TYPE(SWA_FAST_NAME)};
#undef SWA_FAST_NAME
  int index = 0;
  ((body(Storage<Types>{index, names[index]}), ++index), ...);
}

// Calls body(Storage<T>) for each storage type.
template <class Body>
void for_each_storage(const Body& body) {
  for_each_storage_of(body, swa_fast::StorageTypes{});
}

// Calls body(dst, src) for each ordered pair of storage types.
template <class Body>
void for_each_pair(const Body& body) {
  for_each_storage([&](auto dst) { for_each_storage([&](auto src) { body(dst, src); }); });
}

// Calls body(table) for each instruction set that was built and can run here.
template <class Body>
void for_each_isa(const Body& body) {
  for (const std::string& isa : swa_fast::cpu::runnable_isas()) {
    body(*swa_fast::cpu::kernels_by_name(isa));
  }
}
